MUTANTS = {
    # Had the backward pass taken 53 hours, the sentence would hold.
    "experiments.hours_add_up": {"backward_h": 53.2},
}
