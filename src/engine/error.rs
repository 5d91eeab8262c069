//! Why a model call fails.

/// What a caller can act on when a model call fails.
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
pub enum EngineError {
    /// The prompt leaves no room for a reply.
    #[error("the prompt has {tokens} tokens, the model's context holds {limit}; send a shorter one")]
    PromptTooLong {
        /// Tokens of the prompt; of one that was not tokenized because it cannot fit, the fewest that it can have.
        tokens: usize,
        /// Tokens of the context.
        limit: usize,
    },
    /// The request asks for something that this engine or model cannot do.
    #[error("{0}")]
    Unsupported(String),
    /// The prompt is at fault: it is empty, it cannot be tokenized, or the chat template refuses it.
    #[error("{0}")]
    Prompt(String),
    /// Something else of the request is at fault, such as a grammar.
    #[error("{0}")]
    Invalid(String),
    /// What the reply must match is at fault: it does not compile, or it asks for too much.
    #[error("the constraint cannot be honoured: {0}")]
    Constraint(String),
    /// Starting up, restarting or shutting down; worth another try.
    #[error("the model is not available: {0}")]
    Unavailable(String),
    /// The engine failed during the call.
    #[error("the model failed: {0}")]
    Crashed(String),
    /// The server that this one asks for its replies failed, in that server's words.
    #[error("{0}")]
    Upstream(String),
}
