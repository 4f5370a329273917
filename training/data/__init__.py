"""What text and images share: files, parquet, the hub, what is computed once, and the order of the rows."""
