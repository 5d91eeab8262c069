//! Loads a model directory into a mistral.rs pipeline, without network, logging or panic texts.

use std::io::Write;
use std::sync::{Arc, Once};

use mistralrs::core::{MistralRsBuilder, Pipeline};
use mistralrs::{
    AnyModelBuilder, DeviceMapSetting, MistralRs, ModelDType, SchedulerConfig, TextModelBuilder, TokenSource,
};

use super::config::{Place, Source};

/// The name of the threads on which mistral.rs may panic and is expected to.
const LOADER: &str = "spar-load";

/// How many replies one engine may decode together; the front admits fewer.
const MOST_SEQUENCES: usize = 256;

/// mistral.rs's shared handle to a loaded model.
pub(super) type SharedPipeline = Arc<tokio::sync::Mutex<dyn Pipeline>>;

/// A loaded model from which engines are built, one after the other.
pub(super) struct Loaded {
    pub(super) pipeline: SharedPipeline,
    scheduler: SchedulerConfig,
    /// The tokens at which a reply ends; mistral.rs ends a sequence at the first.
    pub(super) ends: Vec<u32>,
    /// Tokens of prompt and reply together.
    pub(super) context: usize,
}

/// Loads a directory, which must have been checked: mistral.rs reads a path that does not exist as a hub's name.
///
/// # Errors
/// What mistral.rs says, as one line.
pub(super) fn load(source: &Source) -> Result<Loaded, String> {
    let directory = &source.directory;
    let directory = directory.canonicalize().map_err(|error| format!("{}: {error}", directory.display()))?;
    let Some(path) = directory.to_str().map(String::from) else {
        return Err(format!("{}: the path is not valid UTF-8", directory.display()));
    };
    let Source { place, eos, end_name, .. } = source.clone();
    // Quantization and adapter state is thread-local and never cleared, so every load gets a thread of its own.
    on_loader_thread(move || {
        // Prompts are rendered by us, so mistral.rs gets a template without meaning: the model's own may start parsers that
        // we have no use for, one of which downloads its vocabulary, and unusual files about it make mistral.rs panic.
        let mut template = tempfile::Builder::new().suffix(".json").tempfile().map_err(|error| error.to_string())?;
        let words = serde_json::json!({ "chat_template": "{{ messages }}", "eos_token": end_name });
        template.write_all(words.to_string().as_bytes()).map_err(|error| error.to_string())?;
        let builder = TextModelBuilder::new(path)
            .with_token_source(TokenSource::None)
            .with_chat_template(template.path().display())
            .with_device_mapping(DeviceMapSetting::dummy())
            .with_prefix_cache_n(None)
            .with_max_num_seqs(MOST_SEQUENCES);
        let builder = match place {
            Place::Cpu => builder.with_force_cpu().with_dtype(ModelDType::F32),
            Place::Cuda => builder.with_dtype(ModelDType::BF16),
        };
        let (pipeline, scheduler, _) = runtime()?
            .block_on(AnyModelBuilder::from(builder).build_pipeline())
            .map_err(|error| one_line(&format!("{error:#}")))?;
        let (metadata, device) = {
            let pipeline = pipeline.blocking_lock();
            (pipeline.get_metadata(), pipeline.device())
        };
        if place == Place::Cuda && !device.is_cuda() {
            return Err("no CUDA device was found".into());
        }
        let mut ends = metadata.eos_tok.clone();
        ends.extend(eos.into_iter().filter(|id| !metadata.eos_tok.contains(id)));
        Ok(Loaded { pipeline, scheduler, ends, context: metadata.max_seq_len })
    })
}

impl Loaded {
    /// Starts an engine on the loaded weights.
    ///
    /// # Errors
    /// Fails when mistral.rs panics while starting, three times in a row.
    pub(super) fn start_engine(&self) -> Result<Arc<MistralRs>, String> {
        // `MistralRs::new` expects a lock to be free that the engine's own thread may just hold, and panics if it is not.
        let mut result = Err(String::new());
        for _ in 0..3 {
            let (pipeline, scheduler) = (Arc::clone(&self.pipeline), self.scheduler.clone());
            result = on_loader_thread(move || {
                let builder = MistralRsBuilder::new(pipeline, scheduler, false, None).with_no_prefix_cache(true);
                // On a runtime of one thread mistral.rs leaves out its trial run, whose output would not be read.
                Ok(runtime()?.block_on(builder.build()))
            });
            if result.is_ok() {
                break;
            }
        }
        result
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())
}

/// Runs `work` on a fresh thread; a panic there becomes an error and prints nothing.
fn on_loader_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    silence_loader_panics();
    let thread = std::thread::Builder::new().name(LOADER.into()).spawn(work).map_err(|error| error.to_string())?;
    thread.join().unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(one_line(text.unwrap_or("mistral.rs failed without a reason")))
    })
}

fn silence_loader_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() == Some(LOADER) {
                tracing::debug!("{info}");
            } else {
                previous(info);
            }
        }));
    });
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
