"""Simplification: rules as named data (`rules.py`), a pattern language and one driver."""
