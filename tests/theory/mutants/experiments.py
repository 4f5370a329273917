MUTANTS = {
    "experiments.tokens_in_a_batch": {"sequences": 31},
    "experiments.gains_of_table_1": {"baseline": 0.6467},
}
