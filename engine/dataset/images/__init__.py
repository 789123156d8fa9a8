"""Images: listing, decoding, orientation, digests, caches."""
