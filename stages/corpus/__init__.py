"""From raw text to verified shards: documents, curate, shards, expectations, in this order."""
