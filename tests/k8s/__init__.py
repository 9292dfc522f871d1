"""Tests of the manifests: quick ones on what they render to, and real ones on a control plane."""
