"""What a model makes of evidence: asked for by a person, checked, marked as a model's, never acted on."""
