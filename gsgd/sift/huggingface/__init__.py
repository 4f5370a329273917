"""What `SiftTrainer` has beside selection: checkpoints that are whole, masks that come again, and its log."""
