"""Drafting and publishing workflows."""
