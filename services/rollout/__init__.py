"""Rollouts: a version goes to one seat, its row, its room and then all, and back by itself when seats are not well."""
