"""What is kept: the folder, the journal, how an image lands, the result tables."""
