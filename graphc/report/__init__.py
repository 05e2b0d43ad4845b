"""Looking at any record of any stage: as text, as DOT, as a screenful of numbers."""
