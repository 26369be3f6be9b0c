//! Tenure's custom resources.
