"""Which exit selects, and when: two rules that act in training, by the factor that selection is worth or by overlap."""
