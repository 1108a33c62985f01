"""Presence: who is logged in where, and whether somebody may log in."""
