"""Sealed fields: encrypted here before they leave the gateway, opened for unsealers, re-sealed when keys are rotated."""
