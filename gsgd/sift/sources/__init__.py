"""Where a score comes from that costs no forward pass: losses that were seen when a row was last trained on.

last_seen  the loss last seen of each row, as a table, and how well it stands in for the present one
samplers   which rows to load at all: by losses last seen, InfoBatch's rule, unbiased importance sampling
"""
