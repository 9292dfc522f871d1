"""The audit log: who asked what and what they were shown, on disk before anything of a document leaves."""
