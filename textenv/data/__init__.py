"""What is read from files and data sets: prompts, labelled and marked texts, preference pairs, corpora."""
