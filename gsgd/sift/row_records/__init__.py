"""What is noted of rows that have ids: their losses, and which of them each step drew and trained on."""
