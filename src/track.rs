//! Where an experiment is tracked beside its record: TensorBoard's event files in the record, and MLflow.

pub mod mlflow;
pub mod tensorboard;
