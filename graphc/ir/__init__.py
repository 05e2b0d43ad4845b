"""The intermediate representation: types, symbolic dimensions, ops as records, nodes, graphs and their text form."""
