//! Draws the reliability diagram: the share of right responses over the probability that the judge gave them.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::quality::Bin;

/// Colours that differ in grey scale and for colour-blind readers (Okabe and Ito).
const COLOURS: [RGBColor; 4] =
    [RGBColor(86, 180, 233), RGBColor(0, 114, 178), RGBColor(230, 159, 0), RGBColor(213, 94, 0)];

/// Draws a named line through the bins of each measurement, together with the diagonal of perfect calibration.
///
/// # Errors
/// Fails if the plot cannot be drawn.
pub fn draw(title: &str, lines: &[(String, &[Bin])]) -> Result<String> {
    let mut svg = String::new();
    let fail = |error: String| anyhow!("drawing {title}: {error}");
    {
        let area = SVGBackend::with_string(&mut svg, (520, 520)).into_drawing_area();
        area.fill(&WHITE).map_err(|e| fail(e.to_string()))?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..1.0, 0.0..1.0)
            .map_err(|e| fail(e.to_string()))?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc("probability of Yes").y_desc("share of right responses").light_line_style(WHITE);
        mesh.draw().map_err(|e| fail(e.to_string()))?;
        let diagonal = LineSeries::new([(0.0, 0.0), (1.0, 1.0)], BLACK.mix(0.4));
        chart.draw_series(diagonal).map_err(|e| fail(e.to_string()))?;
        for ((name, bins), colour) in lines.iter().zip(COLOURS.into_iter().cycle()) {
            let points = || bins.iter().map(|bin| (bin.probability, bin.right));
            chart
                .draw_series(LineSeries::new(points(), colour.stroke_width(2)))
                .map_err(|e| fail(e.to_string()))?
                .label(name.as_str())
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour.stroke_width(3)));
            let marks = points().map(|point| Circle::new(point, 3, colour.filled()));
            chart.draw_series(marks).map_err(|e| fail(e.to_string()))?;
        }
        let mut labels = chart.configure_series_labels();
        labels.position(SeriesLabelPosition::UpperLeft);
        labels.background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).label_font(("sans-serif", 12));
        labels.draw().map_err(|e| fail(e.to_string()))?;
        area.present().map_err(|e| fail(e.to_string()))?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagram_has_a_mark_for_every_bin() {
        let bin = |probability, right| Bin { n: 3, probability, right };
        let svg = draw("judge", &[("before".into(), &[bin(0.1, 0.3), bin(0.9, 0.5)]), ("after".into(), &[])]).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("before"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 2);
    }
}
