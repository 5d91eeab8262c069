//! One running mistral.rs engine: sends it sequences and takes it down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mistralrs::core::MistralRs;
use mistralrs::{Constraint, CustomLogitsProcessor, NormalRequest, Request, RequestMessage, Response, SamplingParams};
use tokio::sync::mpsc::{Receiver, channel};

use super::config::Source;
use super::load::{Loaded, load};

/// How long a stopped engine may take to let go of the model.
const FAREWELL: Duration = Duration::from_secs(10);

/// A loaded model and the engine that runs it.
pub(super) struct Runner {
    engine: Option<Arc<MistralRs>>,
    loaded: Option<Loaded>,
    sent: usize,
}

impl Runner {
    /// Loads the weights and starts an engine on them.
    ///
    /// # Errors
    /// What mistral.rs says, as one line.
    pub(super) fn load(source: &Source) -> Result<Self, String> {
        let loaded = load(source)?;
        let engine = loaded.start_engine()?;
        Ok(Self { engine: Some(engine), loaded: Some(loaded), sent: 0 })
    }

    /// The loaded model.
    pub(super) fn loaded(&self) -> &Loaded {
        self.loaded.as_ref().expect("taken only when dropped")
    }

    /// Replaces the engine and keeps the weights.
    ///
    /// # Errors
    /// Fails when the new engine does not start.
    pub(super) fn restart(&mut self) -> Result<(), String> {
        self.stop_engine();
        self.engine = Some(self.loaded().start_engine()?);
        Ok(())
    }

    /// Sends one sequence of at most `most` new tokens, drawn by `hook`. The receiver must live until the hook is dropped:
    /// mistral.rs panics when a forward pass fails and no one listens.
    ///
    /// # Errors
    /// The engine has ended.
    pub(super) fn send(
        &mut self,
        prompt: &[u32],
        most: usize,
        hook: Arc<dyn CustomLogitsProcessor>,
    ) -> Result<Receiver<Response>, String> {
        let Some(engine) = &self.engine else { return Err("no engine runs".into()) };
        // The engine waits while the channel is full, and with it every sequence.
        let (responses, receiver) = channel(most + 16);
        self.sent += 1;
        let request = NormalRequest {
            messages: RequestMessage::CompletionTokens(prompt.to_vec()),
            // Greedy over the hook's row, which has a single peak: one pass over the vocabulary, no sorting.
            sampling_params: SamplingParams {
                temperature: Some(0.0),
                max_len: Some(most),
                ..SamplingParams::neutral()
            },
            response: responses,
            return_logprobs: false,
            // A whole response that is not awaited any more makes the engine panic, a streamed one does not.
            is_streaming: true,
            id: self.sent,
            constraint: Constraint::None,
            suffix: None,
            tools: None,
            tool_choice: None,
            logits_processors: Some(vec![hook]),
            return_raw_logits: false,
            web_search_options: None,
            model_id: None,
            truncate_sequence: false,
        };
        let sender = engine.get_sender(None).map_err(|error| error.to_string())?;
        sender
            .try_send(Request::Normal(Box::new(request)))
            .map_err(|_| String::from("the engine takes no requests"))?;
        Ok(receiver)
    }

    /// Ends the engine and waits until its thread has let go of the pipeline.
    fn stop_engine(&mut self) {
        // Its drop sends `Terminate`.
        self.engine = None;
        let since = Instant::now();
        while Arc::strong_count(&self.loaded().pipeline) > 1 && since.elapsed() < FAREWELL {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.stop_engine();
        if let Some(loaded) = self.loaded.take() {
            // CUDA memory is freed in the context that is bound to the thread; an allocation binds it.
            let device = loaded.pipeline.try_lock().map(|pipeline| pipeline.device());
            if let Ok(device) = device
                && let Err(error) = candle_core::Tensor::zeros(1, candle_core::DType::F32, &device)
            {
                tracing::warn!(%error, "the model's device is lost");
            }
        }
    }
}
