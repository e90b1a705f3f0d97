//! Connection tracking: what a packet means to its flow, protocol by protocol.

pub mod tcp;
