//! What must hold of any bytes, for the fuzz target and for tests. No part of the agent.

/// Names of the container `id`, read from `answer` as if each of the engines had given it.
pub fn names(answer: &[u8], id: &str) -> Vec<String> {
    crate::observer::names_in_answer(answer, id)
}
