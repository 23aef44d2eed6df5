"""What fine-tuning and the recipe of the embedded model share: examples, batches, the loop."""
