"""Items, their semantic IDs and tokens, the trie of real items, and the bundle that carries them."""
