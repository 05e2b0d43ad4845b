"""From a graph to a program: fusion into kernels, memory planning, lowering. Records and passes."""
