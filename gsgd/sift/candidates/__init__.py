"""What a step chooses from: the rows of a batch, the documents of a pack, or labelled tokens."""
