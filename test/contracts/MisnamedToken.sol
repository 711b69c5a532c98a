// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

import {TestToken} from "./TestToken.sol";

/// A token whose EIP-712 domain keeps the name it was created with, while name()
/// says another.
contract MisnamedToken is TestToken {
    bytes32 private immutable domain;

    constructor(string memory name_, string memory version_) TestToken(name_, version_) {
        domain = super.DOMAIN_SEPARATOR();
        name = "Renamed";
    }

    // solhint-disable-next-line func-name-mixedcase
    function DOMAIN_SEPARATOR() public view override returns (bytes32) {
        return domain;
    }

    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external {
        require(!authorizationState[from][nonce], "MisnamedToken: authorization is used or canceled");
        _authorize(from, to, value, validAfter, validBefore, nonce, abi.encodePacked(r, s, v));
        authorizationState[from][nonce] = true;
        emit AuthorizationUsed(from, nonce);
        _transfer(from, to, value);
    }
}
