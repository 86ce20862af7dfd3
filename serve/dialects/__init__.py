"""What clients speak: each translates its words into an Ask of serve.sampling, and back."""
