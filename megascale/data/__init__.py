"""Token data: `.bin/.idx` files, the seeded stream over them, micro-batches cut from the stream."""
