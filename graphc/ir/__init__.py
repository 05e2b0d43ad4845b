"""The intermediate representation: types, symbolic dimensions, ops, nodes, graphs, their text."""
