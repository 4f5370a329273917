"""Selection in other libraries' trainers, a module a library; each needs that library, and nothing else of it."""
