"""The ops, one record each, in files by kind; `composite.py` holds plain functions of ops.

Files in this folder never import one another (composites excepted): derivatives are written with
the operators and methods of Node, and `F.name(...)` where there is none.
"""
