"""What a run keeps in its folder: records, checkpoint, meters, events; each whole, checked and the run's own."""
