"""Tests on a real control plane: etcd, API server, scheduler, controllers, cert-manager; nodes and their pods are kwok's."""
