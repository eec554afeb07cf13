"""The rules of the engine as one table: 44 cases in which other engines got stuck, skipped a stage
or did it twice, each with a test that is named by its sentence."""
