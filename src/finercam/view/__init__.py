"""Pictures: colours, text, blends, sheets of titled pictures, and the questions they answer."""
