"""Where a score comes from that no exit gives as it is: a module a source (`gsgd.sift.score_source` says what one is).

proxy           a small network that is trained beside the model
corrected_exit  an exit's loss, and the error that it had for the row
linear_probe    a linear classifier on an exit's features, trained on every row that is scored
predicted_loss  a head on an exit's features that predicts exact losses, trained on the rows whose are known
exit_head       what the two have in common
reducible_loss  an exit's loss, less that of a reference (RHO)
mean_of_ranks   several sources, by the mean of the ranks that they give
class_balanced  a control: rows drawn evenly over classes
cheaper_input   the model's loss on smaller pictures, fewer tokens or numbers of fewer bits

and losses that were seen when a row was last trained on, which cost no forward pass:

last_seen  the loss last seen of each row, as a table, and how well it stands in for the present one
samplers   which rows to load at all: by losses last seen, InfoBatch's rule, unbiased importance sampling
"""
