"""Drawing: colours, text, overlays, sheets of titled pictures, and the figures of an explanation."""
