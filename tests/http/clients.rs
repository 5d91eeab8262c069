//! An unmodified client library.

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::types::chat::{
    ChatCompletionRequestUserMessageArgs, ChatCompletionStreamOptions, CreateChatCompletionRequest,
    CreateChatCompletionRequestArgs, FinishReason,
};
use futures::StreamExt;

use super::harness::{Server, improving};

fn client(server: &Server) -> Client<OpenAIConfig> {
    Client::with_config(OpenAIConfig::new().with_api_base(format!("{}/v1", server.url)).with_api_key("any"))
}

fn request(model: &str) -> CreateChatCompletionRequest {
    let message = ChatCompletionRequestUserMessageArgs::default().content("hello").build().unwrap();
    CreateChatCompletionRequestArgs::default().model(model).messages([message.into()]).build().unwrap()
}

#[tokio::test]
async fn async_openai_reads_whole_answers_and_models() {
    let server = Server::start(improving(), &[]).await;
    let answer = client(&server).chat().create(request("fake")).await.unwrap();
    assert_eq!(answer.choices[0].message.content.as_deref(), Some("a first draft"));
    assert_eq!(answer.choices[0].finish_reason, Some(FinishReason::Stop));
    assert_eq!(answer.usage.unwrap().total_tokens, 4);
    let models = client(&server).models().list().await.unwrap();
    assert_eq!(models.data[0].id, "fake");
}

#[tokio::test]
async fn async_openai_reads_streams_plain_and_searched() {
    let server = Server::start(improving(), &[]).await;
    for (model, expected) in [("fake", "a first draft"), ("fake:search", "the refined text")] {
        let options = ChatCompletionStreamOptions { include_usage: Some(true), include_obfuscation: None };
        let request = CreateChatCompletionRequest { stream_options: Some(options), ..request(model) };
        let mut stream = client(&server).chat().create_stream(request).await.unwrap();
        let (mut text, mut usage) = (String::new(), None);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.unwrap();
            text.extend(chunk.choices.iter().filter_map(|choice| choice.delta.content.clone()));
            usage = usage.or(chunk.usage);
        }
        assert_eq!(text, expected);
        assert!(usage.unwrap().completion_tokens >= 3);
    }
}

#[tokio::test]
async fn async_openai_understands_refusals() {
    let server = Server::start(improving(), &[]).await;
    let error = client(&server).chat().create(request("gpt-4")).await.unwrap_err();
    assert!(error.to_string().contains("`gpt-4` is not served here"), "{error}");
}
