"""Data sets put where their names find them, from archives or folders."""
