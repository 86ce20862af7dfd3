"""Former name of serve.protocols: kept for Serve configs that name serve.dialects.protobuf."""
