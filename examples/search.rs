//! One answer plainly and one searched, with reqwest.

use reqwest::Client;
use serde_json::{Value, json};

const PROMPT: &str = "Write about what the river does. Use at least 12 words. Do not use any commas. Include the word lantern somewhere.";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("SPAR_URL").unwrap_or_else(|_| "http://127.0.0.1:8080".into());
    let key = std::env::var("SPAR_API_KEY").unwrap_or_else(|_| "none".into());
    let client = Client::new();
    let ask = async |budget: u32| -> Result<Value, reqwest::Error> {
        let body = json!({
            "model": "spar-tiny", "seed": 2, "search_budget": budget,
            "messages": [{"role": "user", "content": PROMPT}],
        });
        let request = client.post(format!("{url}/v1/chat/completions")).bearer_auth(&key).json(&body);
        request.send().await?.error_for_status()?.json().await
    };
    let text = |answer: &Value| answer["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned();

    println!("plain:    {}", text(&ask(0).await?));
    let searched = ask(8).await?;
    println!("searched: {}", text(&searched));
    let search = &searched["search"];
    for name in ["stop_reason", "root_value", "value", "nodes", "elapsed_ms"] {
        println!("          {name}: {}", search[name]);
    }
    Ok(())
}
