//! The one table of routes: what exists, and which role each needs.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post, put};
use node::config::Role;

use crate::access::{Access, Gate, guard};
use crate::app::Shared;
use crate::{
    deliverability, deliveries, explain, levels, messages, metrics, paths, qualifications,
    quarantine, reactions, recipients, repairs, stat, suppression, transfer, unsubscribe, warm_up,
};
use web::Problem;

/// The document that describes the routes.
pub(crate) const OPENAPI: &str = include_str!("../openapi.json");

/// One method of one path.
pub(crate) struct Route {
    #[cfg_attr(not(test), allow(dead_code, reason = "for the comparison with the document"))]
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    /// The role that it needs; `None`: open to everybody.
    pub(crate) needs: Option<Role>,
    handler: MethodRouter<Shared>,
}

/// All of them.
pub(crate) fn table() -> Vec<Route> {
    let route = |method: Method, path, needs, handler| Route { method, path, needs, handler };
    let read = |path, handler| route(Method::GET, path, Some(Role::Reader), handler);
    let send = |path, handler| route(Method::POST, path, Some(Role::Sender), handler);
    let operate = |path, handler| route(Method::POST, path, Some(Role::Operator), handler);
    vec![
        send("/api/v1/deliveries", post(deliveries::create)),
        read("/api/v1/deliveries", get(deliveries::list)),
        read("/api/v1/deliveries/{id}", get(deliveries::get)),
        route(
            Method::PUT,
            "/api/v1/deliveries/{id}/content",
            Some(Role::Sender),
            put(deliveries::set_content),
        ),
        send("/api/v1/deliveries/{id}/recipients", post(recipients::append)),
        read("/api/v1/deliveries/{id}/refusals", get(deliveries::refusals)),
        send("/api/v1/deliveries/{id}/start", post(deliveries::start)),
        operate("/api/v1/deliveries/{id}/pause", post(deliveries::pause)),
        operate("/api/v1/deliveries/{id}/resume", post(deliveries::resume)),
        operate("/api/v1/deliveries/{id}/cancel", post(deliveries::cancel)),
        send("/api/v1/messages", post(messages::submit)),
        read("/api/v1/explain/{what}", get(explain::explain)),
        read("/api/v1/paths/{domain}", get(paths::paths)),
        read("/api/v1/stat", get(stat::stat)),
        operate("/api/v1/stat/reload", post(stat::reload)),
        read("/api/v1/alerts", get(reactions::alerts)),
        read("/api/v1/reactions", get(reactions::list)),
        operate("/api/v1/reactions/{id}/lift", post(reactions::lift)),
        operate("/api/v1/reactions/{id}/prolong", post(reactions::prolong)),
        read("/api/v1/levels", get(levels::show)),
        operate("/api/v1/levels", post(levels::decide)),
        read("/api/v1/levels/figures", get(levels::figures)),
        read("/api/v1/levels/past", get(levels::past)),
        operate("/api/v1/levels/undo", post(levels::undo)),
        read("/api/v1/warm-up", get(warm_up::status)),
        operate("/api/v1/warm-up/plans", post(warm_up::plan)),
        operate("/api/v1/warm-up/plans/{source}/pause", post(warm_up::pause)),
        operate("/api/v1/warm-up/plans/{source}/resume", post(warm_up::resume)),
        operate("/api/v1/warm-up/plans/{source}/end", post(warm_up::end)),
        operate("/api/v1/warm-up/proposals/{number}/approve", post(warm_up::approve)),
        operate("/api/v1/warm-up/proposals/{number}/reject", post(warm_up::reject)),
        read("/api/v1/qualifications", get(qualifications::list)),
        read("/api/v1/qualifications/{key}", get(qualifications::get)),
        operate("/api/v1/qualifications/{key}", post(qualifications::set)),
        read("/api/v1/quarantine/addresses", get(quarantine::list)),
        read("/api/v1/quarantine/addresses/{address}", get(quarantine::explained)),
        read("/api/v1/quarantine/counts", get(quarantine::counts)),
        operate("/api/v1/quarantine/deeds", post(quarantine::act)),
        operate("/api/v1/quarantine/forget", post(quarantine::forget)),
        operate("/api/v1/quarantine/undo", post(repairs::undo)),
        operate("/api/v1/quarantine/restore", post(repairs::restore)),
        operate("/api/v1/quarantine/rejudge", post(repairs::rejudge)),
        read("/api/v1/quarantine/tasks", get(repairs::tasks)),
        read("/api/v1/quarantine/holds", get(repairs::holds)),
        operate("/api/v1/quarantine/holds/{hold}/confirm", post(repairs::confirm)),
        operate("/api/v1/quarantine/holds/{hold}/dismiss", post(repairs::dismiss)),
        operate("/api/v1/quarantine/import", post(transfer::import)),
        read("/api/v1/quarantine/export", get(transfer::export)),
        read("/api/v1/suppression", get(suppression::list)),
        operate("/api/v1/suppression", post(suppression::change)),
        operate("/api/v1/suppression/import", post(transfer::import_suppression)),
        read("/api/v1/deliverability", get(deliverability::status)),
        read("/api/v1/deliverability/history", get(deliverability::history)),
        operate("/api/v1/deliverability/bundle", post(deliverability::apply)),
        operate("/api/v1/deliverability/rollback", post(deliverability::roll_back)),
        operate("/api/v1/deliverability/sync", post(deliverability::sync)),
        route(Method::GET, "/u/{token}", None, get(unsubscribe::show)),
        route(Method::POST, "/u/{token}", None, post(unsubscribe::unsubscribe)),
        read("/api/v1/openapi.json", get(openapi)),
        read("/metrics", get(metrics::metrics)),
        route(Method::GET, "/healthz", None, get(stat::healthz)),
        route(Method::GET, "/readyz", None, get(stat::readyz)),
    ]
}

/// The router of all routes.
pub(crate) fn router(app: Shared, access: &Arc<Access>) -> Router {
    let mut router = Router::new();
    for Route { path, needs, handler, .. } in table() {
        let gate = Gate { access: Arc::clone(access), needs };
        router = router.route(path, handler.route_layer(from_fn_with_state(gate, guard)));
    }
    router
        .fallback(async || Problem::not_found("no route has this path; see /api/v1/openapi.json"))
        .method_not_allowed_fallback(async || {
            Problem::method_not_allowed(
                "the field Allow names the methods; /api/v1/openapi.json describes them",
            )
        })
        .layer(map_response(for_no_cache))
        .with_state(app)
}

/// Answers hold addresses and tokens' work: nobody on the way may keep them or guess at their type.
async fn for_no_cache(mut response: Response) -> Response {
    let fields = response.headers_mut();
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// `GET /api/v1/openapi.json`
async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    #[test]
    fn the_document_describes_exactly_these_routes() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let mut described = BTreeMap::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                if method == "parameters" {
                    continue;
                }
                let role = operation["x-role"].as_str().unwrap_or("none").to_owned();
                described.insert((path.clone(), method.to_ascii_uppercase()), role);
                // The document's own account of access must not differ from its note of the role.
                let open = operation["security"].as_array().is_some_and(Vec::is_empty);
                assert_eq!(open, operation["x-role"].is_null(), "{method} {path}");
                for name in path.split('/').filter_map(|part| part.strip_prefix('{')) {
                    let name = name.trim_end_matches('}');
                    let parameters = item["parameters"].as_array().expect(path);
                    assert!(
                        parameters
                            .iter()
                            .any(|parameter| resolve(&document, parameter)["name"] == name
                                && resolve(&document, parameter)["in"] == "path"),
                        "{path} does not describe {name}"
                    );
                }
            }
        }
        let registered: BTreeMap<(String, String), String> = table()
            .into_iter()
            .map(|route| {
                let role = route
                    .needs
                    .map_or("none".into(), |role| format!("{role:?}").to_ascii_lowercase());
                ((route.path.to_owned(), route.method.to_string()), role)
            })
            .collect();
        assert_eq!(described, registered);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(document: &Value, value: &Value, count: &mut usize) {
            match value {
                Value::Object(members) => {
                    if let Some(reference) = members.get("$ref") {
                        assert!(!resolve(document, value).is_null(), "{reference} leads nowhere");
                        *count += 1;
                    }
                    members.values().for_each(|member| walk(document, member, count));
                }
                Value::Array(list) => list.iter().for_each(|item| walk(document, item, count)),
                _ => {}
            }
        }
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let mut count = 0;
        walk(&document, &document, &mut count);
        assert!(count > 20, "{count}");
    }

    fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => document.pointer(&reference[1..]).unwrap_or(&Value::Null),
            None => value,
        }
    }
}
