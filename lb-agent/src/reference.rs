//! `docs/reference.md`: every field of the resources, every counter of the kernel programs and every option of the
//! command line, from the types that read them.
use crate::api;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use lb_common::outcome::{Action, Outcome};

/// The whole text.
pub fn text(command: &clap::Command) -> String {
    let mut text =
        "# Reference\n\nMade of the types that read it: `lb-agent reference` prints it.\n\n\
                    ## Resources\n\nOf the group `metallb.io`. Their rules beside the types are in \
                    the schemas ([deploy/crds](../deploy/crds)).\n"
            .to_owned();
    for crd in api::crds() {
        for version in &crd.spec.versions {
            let (kind, name) = (&crd.spec.names.kind, &version.name);
            let schema = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref());
            let Some(schema) = schema else { continue };
            text += &format!("\n### {kind} {name}\n\n{}\n", described(schema));
            if version.deprecated == Some(true) {
                text += "\nDeprecated.\n";
            }
            text += "\n| field | type | default | |\n|---|---|---|---|\n";
            fields(&mut text, "", schema);
        }
    }
    text += "\n## What becomes of frames\n\nEvery frame that a kernel program sees raises one of these: the labels of \
             `herald_frames`, the fields of the map `COUNTERS`, what `lb-agent watch --only` goes by. The middle says \
             what the ingress program tells the kernel.\n\n| counter | | |\n|---|---|---|\n";
    for outcome in Outcome::ALL {
        let (name, meaning) = (outcome.name(), cell(outcome.meaning()));
        let action = match outcome.action() {
            Action::Drop => "drop",
            Action::Pass => "pass",
            Action::Tx => "send back",
            Action::Redirect => "send on",
        };
        text += &format!("| `{name}` | {action} | {meaning} |\n");
    }
    text += "\n## Command line\n";
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let name = sub.get_name();
        let about = sub.get_long_about().or(sub.get_about()).map(ToString::to_string);
        text += &format!("\n### lb-agent {name}\n\n{}\n", about.unwrap_or_default());
        let arguments: Vec<_> = sub.get_arguments().filter(|one| !one.is_hide_set()).collect();
        if !arguments.is_empty() {
            text += "\n| option | default | |\n|---|---|---|\n";
        }
        arguments.into_iter().for_each(|one| option(&mut text, one));
    }
    text
}

/// In one line, as a table's cell takes it.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn described(schema: &JSONSchemaProps) -> String {
    schema.description.as_deref().map(cell).unwrap_or_default()
}

/// The fields of an object, and of those in it, by their paths.
fn fields(text: &mut String, path: &str, schema: &JSONSchemaProps) {
    let required = schema.required.as_deref().unwrap_or_default();
    for (name, field) in schema.properties.iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        // What every object has.
        if ["apiVersion", "kind", "metadata"].contains(&path.as_str()) {
            continue;
        }
        let must = if required.contains(name) { "**required** " } else { "" };
        let default = field.default.as_ref().map(|value| format!("`{}`", value.0));
        *text += &format!(
            "| `{path}` | {} | {} | {must}{} |\n",
            kind(field),
            default.unwrap_or_default(),
            described(field)
        );
        match items(field) {
            Some(of) => fields(text, &format!("{path}[]"), of),
            None => fields(text, &path, field),
        }
    }
}

fn items(schema: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match &schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => Some(items),
        _ => None,
    }
}

/// A type, with its range.
fn kind(schema: &JSONSchemaProps) -> String {
    if let Some(of) = items(schema) {
        return format!("list of {}", kind(of));
    }
    if let Some(JSONSchemaPropsOrBool::Schema(of)) = &schema.additional_properties {
        return format!("map of {}", kind(of));
    }
    if schema.x_kubernetes_int_or_string == Some(true) {
        return "number or string".to_owned();
    }
    if let Some(values) = &schema.enum_ {
        let values: Vec<_> = values.iter().map(|value| format!("`{}`", value.0)).collect();
        return values.join(", ");
    }
    let mut kind = schema.type_.clone().unwrap_or_default();
    match (schema.minimum, schema.maximum) {
        (Some(least), Some(most)) => kind += &format!(" {least} to {most}"),
        (Some(least), None) => kind += &format!(", {least} or more"),
        (None, Some(most)) => kind += &format!(", {most} at most"),
        (None, None) => {}
    }
    kind
}

fn option(text: &mut String, option: &clap::Arg) {
    let values = option.get_value_names().unwrap_or_default();
    let mut value: String = values.iter().map(|name| format!(" {name}")).collect();
    if !option.get_action().takes_values() {
        value.clear();
    }
    let name = match option.get_long() {
        Some(long) => format!("`--{long}{value}`"),
        None => format!("`{}`", value.trim()),
    };
    let default: Vec<_> =
        option.get_default_values().iter().map(|value| format!("`{}`", value.display())).collect();
    let default =
        if option.get_action().takes_values() { default.join(" ") } else { String::new() };
    let help = option.get_long_help().or(option.get_help()).map(ToString::to_string);
    let mut help = cell(&help.unwrap_or_default());
    for value in option.get_possible_values().iter().filter(|value| !value.is_hide_set()) {
        let about = value.get_help().map(|help| format!(": {}", cell(&help.to_string())));
        help += &format!("<br>`{}`{}", value.get_name(), about.unwrap_or_default());
    }
    if let Some(variable) = option.get_env() {
        help += &format!("<br>Environment: `{}`", variable.display());
    }
    *text += &format!("| {name} | {default} | {help} |\n");
}
