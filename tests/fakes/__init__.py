"""Small real implementations of the seams: searches without a purpose, and a world that counts what it is asked."""
