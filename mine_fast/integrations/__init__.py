"""Other people's frameworks, each in a module that needs it; `MutualInfoSelector` is in `mine_fast` itself."""
