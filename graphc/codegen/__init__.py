"""Program -> C-family source. Pure text: nothing here compiles or runs anything."""
