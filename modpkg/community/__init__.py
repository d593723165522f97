"""What a community does with models: compare, test, vet, merge, bisect."""
