"""Problems with exactly known constants, and controls that break one assumption each."""
