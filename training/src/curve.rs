//! Draws the loss curve as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// Draws `(step, loss)` points as a thin line, and their moving average over 2 % of the run as a thick line.
///
/// # Errors
/// Fails if the file cannot be written.
pub fn draw(path: &Path, points: &[(u64, f64)]) -> Result<()> {
    let Some(&(last, _)) = points.last() else { return Ok(()) };
    let area = SVGBackend::new(path, (960, 480)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| anyhow!("{error}"))?;
    let first = points[0].0;
    // The first losses are far above the rest, so the axis ends at the loss after 2 % of the run.
    let skip = points.len() / 50;
    let high = points[skip..].iter().map(|p| p.1).fold(0.0, f64::max) * 1.05 + 1e-6;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(first..last.max(first + 1), 0.0..high)
        .map_err(|error| anyhow!("{error}"))?;
    let mesh = chart.configure_mesh().x_desc("step").y_desc("loss, nats per weighted token").draw();
    mesh.map_err(|error| anyhow!("{error}"))?;
    let clipped = points.iter().map(|&(step, loss)| (step, loss.min(high)));
    chart.draw_series(LineSeries::new(clipped, BLUE.mix(0.3))).map_err(|error| anyhow!("{error}"))?;
    let mean = |window: &[(u64, f64)]| window.iter().map(|p| p.1).sum::<f64>() / window.len() as f64;
    let average = points.windows(skip + 1).map(|window| (window[window.len() - 1].0, mean(window).min(high)));
    chart.draw_series(LineSeries::new(average, BLUE.stroke_width(2))).map_err(|error| anyhow!("{error}"))?;
    area.present().map_err(|error| anyhow!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_an_svg_with_two_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("loss.svg");
        draw(&path, &(0..200).map(|i| (i, 6.0 / (1.0 + i as f64))).collect::<Vec<_>>()).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.starts_with("<svg") && text.matches("<polyline").count() >= 2);
        draw(&directory.path().join("none.svg"), &[]).unwrap();
    }
}
